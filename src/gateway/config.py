"""Every setting, its bound and its unit, in one place.

Precedence: flags > `GATEWAY_*` environment (nested with `__`) > TOML file > systemd credentials directory > defaults.
An unknown key, also an unknown `GATEWAY_*` variable, is a ConfigError that names it.
"""
