# Commands for `nix run`: the lab with everything that it starts, and with the image that it boots unless ASPEN_IMAGE
# names another one.
{
  pkgs,
  programs,
  appliance,
}:
let
  lab-with-image = pkgs.writeShellApplication {
    name = "lab";
    runtimeInputs = [
      pkgs.cloud-hypervisor
      pkgs.e2fsprogs
      pkgs.qemu
    ];
    text = ''
      export ASPEN_IMAGE="''${ASPEN_IMAGE-${appliance}}"
      exec ${programs}/bin/lab "$@"
    '';
  };

  cluster = pkgs.writeShellApplication {
    name = "cluster";
    text = ''
      exec ${lab-with-image}/bin/lab up ${../topologies/three-nodes.yaml} "$@"
    '';
  };

  app = description: package: {
    type = "app";
    program = "${package}/bin/${package.name}";
    meta = { inherit description; };
  };
in
{
  inherit lab-with-image;
  lab = app "Runs scenarios on clusters of microVMs" lab-with-image;
  cluster = app "Boots three nodes and stays" cluster;
}
