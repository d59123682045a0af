//! Compiles the interface files with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let names = [
        "csi.proto",
        "deviceplugin.proto",
        "pluginregistration.proto",
        "podresources.proto",
    ];
    let files = protox::compile(names, ["proto"])?;
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .compile_fds(files)?;
    Ok(())
}
