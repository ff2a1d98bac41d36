"""The programs of the peers. Each runs in the environment of its peer, so none may import anything of `bench`."""
