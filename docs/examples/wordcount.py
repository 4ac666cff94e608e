"""Count the words of a text file, the short ones and the long ones apart: `python wordcount.py book.txt`.

What a node keeps in memory, as `Count` does here, dies with its worker; `census.py` counts without that risk.
"""

# ruff: noqa: D101, D102
import sys

from consecutiond import Consecutor, Node


class Words(Node):
    def process(self, line):
        for word in line.split():
            self.push(word)


class Count(Node):
    def begin(self):
        self.seen = {}

    def process(self, word):
        self.seen[word] = self.seen.get(word, 0) + 1

    def end(self):
        self.write("counts", [self.name, self.seen])


graph = Words("words") | [Count("short"), Count("long"), lambda word: "short" if len(word) < 5 else "long"]

if __name__ == "__main__":
    consecutor = Consecutor(graph)
    consecutor.register_output("counts", counts := [])
    with open(sys.argv[1], encoding="utf-8") as book:
        consecutor.produce_from_iterable(book)
    for name, seen in counts:
        print(name, seen)
