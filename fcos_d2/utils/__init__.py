"""Devices, files, drawing: no knowledge of FCOS."""
