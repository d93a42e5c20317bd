//! The agent's program.

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    // The agent starts itself under this name: see `network::child_main`.
    if arguments.next_if_eq("dns-child").is_some() {
        if let Err(error) = coracle_agent::network::child_main(arguments) {
            eprintln!("coracle-agent dns-child: {error}");
            std::process::exit(1);
        }
    }
}
