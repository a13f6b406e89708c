"""Python imports this at its start in every process that has this folder on `$PYTHONPATH`."""

import no_network

no_network.install()
