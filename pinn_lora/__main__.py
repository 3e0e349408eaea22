"""`python -m pinn_lora` is the command pinn-lora."""

from pinn_lora.cli import main

if __name__ == "__main__":
    main()
