"""The parts that bundles are built from: see :mod:`mednextv2.bundle`."""
