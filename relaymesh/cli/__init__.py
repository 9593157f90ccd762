"""Floor 8, the command line: one file per command, and the only place that names the system's clock."""


def main() -> None:
    """Run `relaymesh` with the arguments of this process."""
    from relaymesh.cli.application import application
    from relaymesh.cli.terminal import prepare_streams

    prepare_streams()
    application()
