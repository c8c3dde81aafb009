"""`python -m starforge` is the command line."""

from starforge.cli.start import main

if __name__ == "__main__":
    main()
