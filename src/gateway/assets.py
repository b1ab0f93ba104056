"""Files that ship beside the code: SQL statements and migrations.

An installed wheel carries them inside the package; an editable install reads them from the checkout, because
hatchling's editable mode ignores `force-include`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).parent / "_assets"
_CHECKOUT = Path(__file__).parents[2]


def asset_dir(name: str) -> Path:
    """Return the directory `name` (`sql` or `migrations`). Raises FileNotFoundError if the installation lacks it."""
    for root in (_PACKAGED, _CHECKOUT):
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(f"the installation lacks its {name} directory; install the package again")
