{
  description = "Aspen: a replicated key-value node as a bootable appliance, and the lab that proves it";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    crane.url = "github:ipetkov/crane";
  };

  # The same image as `lab image build` makes without Nix: the same subcommand assembles it, from a kernel and static
  # programs that Nix has built. For x86_64 only, as the appliance is for now.
  outputs =
    {
      self,
      nixpkgs,
      crane,
    }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};

      cargo = import ./images/programs.nix { inherit pkgs crane; };
      inherit (cargo) programs;
      linux = import ./images/kernel.nix { inherit pkgs programs; };
      inherit (linux) kernel;
      image = import ./images/appliance.nix { inherit pkgs programs kernel; };
      commands = import ./images/commands.nix {
        inherit pkgs programs;
        inherit (image) appliance;
      };
    in
    {
      packages.${system} = {
        inherit (cargo) aspen-node lab;
        inherit (image) appliance disk oci;
        inherit kernel;
        default = image.appliance;
      };

      apps.${system} = {
        inherit (commands) lab cluster;
        default = commands.lab;
      };

      devShells.${system}.default = cargo.shell;

      checks.${system} = cargo.checks // {
        kernel = linux.options;
        boot = import ./images/boot-test.nix {
          inherit pkgs programs;
          inherit (image) appliance;
        };
        cluster = import ./images/cluster-test.nix {
          inherit pkgs;
          inherit (commands) lab-with-image;
        };
      };

      formatter.${system} = pkgs.nixfmt-tree;
    };
}
