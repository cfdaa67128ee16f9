"""What files are called: the suffixes that say what is in a file.

Plain values, for what is declared, recognised and opened alike.
"""

ARRAYS = (".npy", ".npz", ".h5", ".hdf5")
"""Files with arrays in them."""

HDF5 = (".h5", ".hdf5")
"""Of those, the ones that h5py reads."""

MANIFESTS = (".json", ".csv")
"""Lists of images with the class of each."""

ONLY_OTHER = ""
"""As a manifest's field of labels: the only field that is not named otherwise."""
