"""Joint training."""

from methods.base import Strategy


class Joint(Strategy):
    """All tasks' images at once, for as many epochs as a task has: the upper reference of CaSSLe's comparison, there
    called offline (arXiv:2112.04215)."""

    name = "joint"
    trains = "jointly"
