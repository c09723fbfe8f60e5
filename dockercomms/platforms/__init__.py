"""Files, locks, clocks, fast dataclasses and checks of arguments."""
