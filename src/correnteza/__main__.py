"""`python -m correnteza` is the command `correnteza`."""

import sys

from correnteza.cli import main

if __name__ == "__main__":
    sys.exit(main())
