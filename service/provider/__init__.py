"""The HTTP client of Infrahub. Nothing else sends requests to the provider."""
