//! Prints the path of a protobuf compiler: the receiver's build asks for one in `PROTOC`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{}", protoc_bin_vendored::protoc_bin_path()?.display());
    Ok(())
}
