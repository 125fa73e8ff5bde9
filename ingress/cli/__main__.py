"""`python -m ingress.cli` is `llm-manager`."""

from __future__ import annotations

from ingress.cli.main import main

if __name__ == "__main__":
    main()
