"""Exit codes of the command line, one meaning each."""

from typing import Final

#: everything that was asked for was done
OK: Final = 0
#: the run ended, but roots failed and are kept, or a node's `end` raised
SOME_FAILED: Final = 1
#: the command line itself is wrong
USAGE: Final = 2
#: no consecutor of that id is running
NOT_RUNNING: Final = 3
#: the target cannot be imported, its graph has faults, or an option is wrong
BAD_TARGET: Final = 4
#: the directory cannot be used, the id is illegal, or a live consecutor has it
BAD_DIRECTORY: Final = 5
#: a part did not come up, or the store cannot be opened
START_FAILED: Final = 6
#: the run was stopped before the input's end; what is open stays in the log
STOPPED: Final = 7
#: the consecutor did not want this worker, or a newer one has its place
TURNED_AWAY: Final = 8
#: something would be thrown away, or replayed, that nobody has agreed to
REFUSED: Final = 9
#: doctor found something that does not work, or is not as it was asked for
UNSOUND: Final = 10
#: doctor, told to be strict, found something that may go wrong, or could not see something
DOUBTFUL: Final = 11

TABLE: Final = {
    OK: "done",
    SOME_FAILED: "the run ended; roots failed and are kept, or a node's begin or end raised; for failed: some failed "
    "again, or were left as they are; for log: some cannot be read",
    USAGE: "the command line is wrong, or an input cannot be read",
    NOT_RUNNING: "no consecutor of that id is running; for clean, failed, log and store: there is none, or it "
    "keeps no failed items, or no completed inputs",
    BAD_TARGET: "the target cannot be imported, its graph has faults, or an option is wrong",
    BAD_DIRECTORY: "the directory cannot be used, the id is illegal, or a live consecutor has it",
    START_FAILED: "a part did not come up; for failed, log and store: a store cannot be opened",
    STOPPED: "stopped before the end of the input, or of what was waited for; what is open stays in the log",
    TURNED_AWAY: "the consecutor refused this worker or its key, or a newer worker has its place",
    REFUSED: "refused: accepted work or failed items would be thrown away, or completed inputs entered again; --force, "
    "for failed and log --yes, does it all the same; for store: the target is not empty; for restart: another one is "
    "under way",
    UNSOUND: "doctor found a problem: something does not work, or is not as it was asked for",
    DOUBTFUL: "doctor --strict found a warning, or something that it could not see",
}
