"""The command line. Modules here import torch only inside the functions that need it, so that `--help` is instant."""
