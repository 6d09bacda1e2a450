"""The command line; `wassertight.cli.main.main` is its entry point."""
