"""``python -m consecutiond``: the command line, where its script is not in the PATH."""

from consecutiond.cli import main

if __name__ == "__main__":
    main()
