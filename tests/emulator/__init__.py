"""Parts of the Vast.ai emulator: clock, market, contracts, money, limits, faults, the API over http, invariants."""
