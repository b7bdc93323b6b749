"""What all tests of the package begin with."""

import signal

# A shell's background jobs ignore SIGINT, and so would all that is started from here; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
