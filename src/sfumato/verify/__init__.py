"""Evidence: oracles written apart from the code they judge, and the checks that use them."""
