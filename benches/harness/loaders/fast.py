"""Loads with fastsafetensors, without GPU direct storage."""

from fastsafetensors import SafeTensorsFileLoader
from serve import DEVICE, files, serve, words


def load(path: str) -> int:
    total = 0
    loader = SafeTensorsFileLoader(None, DEVICE, nogds=True)
    loader.add_filenames({0: files(path)})
    buffers = loader.copy_files_to_device()
    for name in loader.get_keys():
        total += words(buffers.get_tensor(name))
    buffers.close()
    loader.close()
    return total


serve(load)
