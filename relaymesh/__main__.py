"""`python -m relaymesh`: the same as the `relaymesh` command."""

from relaymesh.cli import main

if __name__ == "__main__":
    main()
