"""Tar archives as layers use them: read as they stream by, and written so that the same content gives the same bytes."""
