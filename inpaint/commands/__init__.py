"""The subcommands of `inpaint`, one a module: see `inpaint.cli` for what each has to offer."""
