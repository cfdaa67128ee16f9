"""What an operator writes in loader.toml, the environment and on the command line, validated once."""
