"""What is measured: one catalogue, a sampler for what SQL knows, an exporter that never runs SQL."""
