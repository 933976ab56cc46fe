"""``python -m tda_backend`` is the command ``tda``."""

import sys

from tda_backend.interfaces.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
