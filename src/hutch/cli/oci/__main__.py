"""``python -m hutch.cli.oci``."""

import sys

from hutch.cli.oci.main import main

sys.exit(main())
