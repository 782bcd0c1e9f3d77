"""What every test relies on."""

import signal

# A shell starts programs in the background with SIGINT ignored, and they pass that on to the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
