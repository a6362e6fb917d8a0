# Stands in for crane where there is no network: see README.md beside this folder.
#
# Only the functions that flake.nix uses, with only the arguments that they take: crane's own pass every argument on,
# so that a misspelt one would be an environment variable that nobody reads.
{
  outputs =
    { self }:
    {
      mkLib =
        pkgs:
        let
          inherit (pkgs.aspenStub) known package fromPrebuilt;

          # lib/mkCargoDerivation.nix, the standard environment, and what cargo reads from the environment.
          always = [
            "CARGO_BUILD_TARGET"
            "RUSTFLAGS"
            "buildInputs"
            "cargoArtifacts"
            "cargoExtraArgs"
            "doCheck"
            "nativeBuildInputs"
            "pname"
            "postPatch"
            "src"
            "strictDeps"
            "version"
          ];

          # A derivation that is only there to be named by others, with all that it would be made of.
          cargo =
            suffix: more: required: arguments:
            let
              needed = required ++ [
                "pname"
                "src"
                "version"
              ];
              missing = builtins.filter (name: !(arguments ? ${name})) needed;
              checked = known "crane's ${suffix}" (always ++ more) arguments;
            in
            if missing != [ ] then
              throw "crane's ${suffix} needs ${toString missing}"
            else
              package {
                name = "${checked.pname}-${suffix}-${checked.version}";
                environment = removeAttrs checked [ "src" ] // {
                  source = "${checked.src}";
                };
                script = "echo 'the stub has no cargo' >&2; exit 1";
                attributes = { inherit (checked) version; };
              };
        in
        {
          # lib/buildDepsOnly.nix
          buildDepsOnly = cargo "deps" [ ] [ ];

          # lib/buildPackage.nix
          buildPackage =
            arguments:
            builtins.seq (cargo "build" [ ] [ ] arguments).drvPath (fromPrebuilt {
              name = "${arguments.pname}-${arguments.version}";
              inherit (arguments) version;
              files = builtins.listToAttrs (
                map
                  (name: {
                    name = "bin/${name}";
                    value = "bin/${name}";
                  })
                  [
                    "aspen-init"
                    "aspen-node"
                    "lab"
                  ]
              );
            });

          # lib/cargoClippy.nix
          cargoClippy = cargo "clippy" [ "cargoClippyExtraArgs" ] [ "cargoArtifacts" ];

          # lib/cargoFmt.nix
          cargoFmt = cargo "fmt" [ ] [ ];

          # lib/cargoNextest.nix
          cargoNextest = cargo "nextest" [ "cargoNextestExtraArgs" ] [ "cargoArtifacts" ];

          # lib/devShell.nix
          devShell =
            arguments:
            pkgs.mkShell (
              known "crane's devShell" [
                "buildInputs"
                "packages"
              ] arguments
            );
        };
    };
}
