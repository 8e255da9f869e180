"""`python -m epp.sim`: the same as `epp sim`."""

from epp.sim.cli import main

raise SystemExit(main())
