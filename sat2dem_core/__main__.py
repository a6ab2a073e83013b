"""``python -m sat2dem_core`` is the command ``sat2dem``."""

import sys

from sat2dem_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
