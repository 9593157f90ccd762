"""Floor 8, the command line: one file per command, and the only place that names the system's clock."""

import signal


def main() -> None:
    """Run `relaymesh` with the arguments of this process."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to clean up yet: Ctrl-C just ends it
    from relaymesh.cli.application import application
    from relaymesh.cli.terminal import prepare_streams

    prepare_streams()
    signal.signal(signal.SIGINT, interrupt)
    try:
        application()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # and nothing any more
