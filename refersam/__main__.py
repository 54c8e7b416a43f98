"""`python -m refersam`, which torchrun can start."""

from refersam.cli import main

if __name__ == "__main__":
    main()
