"""What crops are cut from, kept on disk: `crop_cache` holds it, `python -m dataloader.cache` fills it."""
