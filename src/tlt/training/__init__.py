"""The parts of a training run; the loop itself is `tlt.train`."""
