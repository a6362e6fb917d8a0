# Stands in for nixpkgs where there is no network: see README.md beside this folder.
{
  outputs =
    { self }:
    let
      lib = import ./lib.nix;
    in
    {
      inherit lib;
      legacyPackages.x86_64-linux = import ./packages.nix { inherit lib; };
    };
}
