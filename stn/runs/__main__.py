"""`python -m stn.runs [FOLDER]` lists the runs in a folder."""

import sys

from stn.scripts.runs import main

sys.exit(main())
