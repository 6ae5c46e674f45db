"""What every room uses: errors, files, globs, the machine."""
