"""`python -m dockercomms`."""

from dockercomms.cli.main import process

if __name__ == "__main__":
    process()
