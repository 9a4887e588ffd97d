"""The engine's schema and the user's: numbered SQL files, run once each, recorded with their checksum."""
