# Made by `make dist` for version 1.2.3.
class Crossbill < Formula
  desc "Canary releases from GitHub, through GitLab, into an Istio mesh"
  homepage "https://github.com/our-org/crossbill"
  version "1.2.3"
  license "Apache-2.0"

  on_macos do
    on_intel do
      url "https://github.com/our-org/crossbill/releases/download/v1.2.3/crossbill_1.2.3_darwin_amd64.tar.gz"
      sha256 "0000000000000000000000000000000000000000000000000000000000000000"
    end
    on_arm do
      url "https://github.com/our-org/crossbill/releases/download/v1.2.3/crossbill_1.2.3_darwin_arm64.tar.gz"
      sha256 "1111111111111111111111111111111111111111111111111111111111111111"
    end
  end

  on_linux do
    on_intel do
      url "https://github.com/our-org/crossbill/releases/download/v1.2.3/crossbill_1.2.3_linux_amd64.tar.gz"
      sha256 "2222222222222222222222222222222222222222222222222222222222222222"
    end
    on_arm do
      url "https://github.com/our-org/crossbill/releases/download/v1.2.3/crossbill_1.2.3_linux_arm64.tar.gz"
      sha256 "3333333333333333333333333333333333333333333333333333333333333333"
    end
  end

  def install
    bin.install "crossbill"
    generate_completions_from_executable(bin/"crossbill", "completion")
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/crossbill --version")
  end
end
