# What the programs are built from: a change of a document or of a test builds nothing again.
#
# crane's own filter keeps only .rs and .toml, but the crates include style sheets, scenarios and test data.
{ lib }:
let
  inherit (lib) fileset;
in
fileset.toSource {
  root = ../.;
  fileset = fileset.unions [
    ../.cargo
    ../Cargo.lock
    ../Cargo.toml
    ../lab
    ../node
    ../topologies
    ./init
    ./kernel-lab.fragment
    ./kernel.fragment
    # The manifest of the lab names it.
    ../tests/it/main.rs
  ];
}
