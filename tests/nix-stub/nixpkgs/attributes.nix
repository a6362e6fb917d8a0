# Every package of nixpkgs that flake.nix uses, with the file of nixpkgs in which its attribute was looked up. What is
# not here does not exist. `outputs` are those used beside the first one.
{
  # The programs, and the shell for those who work on them.
  cargo-nextest.file = "pkgs/by-name/ca/cargo-nextest/package.nix";
  cloud-hypervisor.file = "pkgs/by-name/cl/cloud-hypervisor/package.nix";
  etcd.file = "pkgs/by-name/et/etcd/package.nix";
  glibc = {
    file = "pkgs/development/libraries/glibc/default.nix";
    outputs = [ "static" ];
  };
  iproute2.file = "pkgs/by-name/ip/iproute2/package.nix";
  nftables.file = "pkgs/os-specific/linux/nftables/default.nix";
  nixfmt-tree.file = "pkgs/by-name/ni/nixfmt-tree/package.nix";
  qemu.file = "pkgs/by-name/qe/qemu/package.nix";

  # The image.
  e2fsprogs.file = "pkgs/by-name/e2/e2fsprogs/package.nix";

  # The kernel's options.
  bison.file = "pkgs/by-name/bi/bison/package.nix";
  flex.file = "pkgs/development/tools/parsing/flex/default.nix";

  # Tests.
  curl.file = "pkgs/by-name/cu/curl/package.nix";
  dosfstools.file = "pkgs/by-name/do/dosfstools/package.nix";
  mtools.file = "pkgs/by-name/mt/mtools/package.nix";
}
