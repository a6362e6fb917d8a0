# Three appliances on one machine, as a user of `lab up` has them: reached from the host, broken, healed, ended.
{ pkgs, lab-with-image }:
pkgs.testers.runNixOSTest {
  name = "aspen-cluster";

  nodes.host = {
    virtualisation = {
      cores = 2;
      memorySize = 3072;
    };
    environment.systemPackages = [
      lab-with-image
      pkgs.curl
    ];
  };

  testScript = ''
    host.wait_for_unit("multi-user.target")
    host.succeed(
        "lab up ${../topologies/three-nodes.yaml} --driver qemu --detach --publish 8080 --out /tmp/run >&2",
        timeout=600,
    )
    write = '{"command":{"Set":{"key":"greeting","value":"hello"}}}'
    host.wait_until_succeeds(f"curl -sSf http://127.0.0.1:8080/kv/write -d '{write}'", timeout=120)

    with subtest("what one node has acknowledged, another one serves after a power cut"):
        host.succeed("lab kill n1 >&2")
        read = '{"key":"greeting"}'
        host.wait_until_succeeds(
            f"curl -sSf http://127.0.0.1:8081/kv/read -d '{read}' | grep hello", timeout=120
        )
        host.succeed("lab start n1 >&2")
        host.wait_until_succeeds(
            f"curl -sSf http://127.0.0.1:8080/kv/read -d '{read}' | grep hello", timeout=240
        )

    with subtest("nothing is left"):
        host.succeed("lab down >&2")
        host.wait_until_fails("pgrep qemu-system", timeout=60)
  '';
}
