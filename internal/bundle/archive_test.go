package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// archive makes an archive as anybody may make one.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	w := tar.NewWriter(zipped)
	for _, h := range headers {
		text := make([]byte, h.Size)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func TestPackDependsOnTheFilesAlone(t *testing.T) {
	a, b := File{"a.yaml", []byte("kind: A\n")}, File{"b/c.yaml", []byte("kind: B\n")}
	first, err := pack([]File{b, a})
	if err != nil {
		t.Fatal(err)
	}
	again, err := pack([]File{a, b})
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("the order of files matters, %v", err)
	}
	got, err := unpack(first)
	if diff := cmp.Diff([]File{a, b}, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	zipped, err := gzip.NewReader(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(zipped); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil || !header.ModTime.Equal(time.Unix(0, 0)) || header.Uid != 0 || header.Uname != "" || header.Mode != 0o644 {
			t.Errorf("%v, %+v", err, header)
		}
	}
	// What a new compiler packs differently gets another digest: bundles that are the same would not be found to be.
	if got, want := fmt.Sprintf("%x", sha256.Sum256(first)), "9d65ee716c823528e9468316fe74492e352094ec43ab94ebf1cc99dc061183ef"; got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}

func TestUnpackRefuses(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 10} }
	link := func(kind byte) tar.Header {
		return tar.Header{Typeflag: kind, Name: "a.yaml", Linkname: "/etc/passwd"}
	}
	var many []tar.Header
	for i := range maxFiles + 1 {
		many = append(many, file(fmt.Sprintf("%d.yaml", i)))
	}
	truncated := archive(t, file("a.yaml"))
	for name, test := range map[string]struct {
		packed []byte
		want   string
	}{
		"nothing":               {nil, "not compressed"},
		"no gzip":               {[]byte("kind: Deployment"), "not compressed"},
		"an empty archive":      {archive(t), "no manifests"},
		"folders alone":         {archive(t, tar.Header{Typeflag: tar.TypeDir, Name: "a/"}), "no manifests"},
		"half of one":           {truncated[:len(truncated)/2], "damaged"},
		"a symbolic link":       {archive(t, link(tar.TypeSymlink)), `the link "a.yaml"`},
		"a hard link":           {archive(t, link(tar.TypeLink)), `the link "a.yaml"`},
		"a device":              {archive(t, tar.Header{Typeflag: tar.TypeChar, Name: "a.yaml"}), "which is no file"},
		"a pipe":                {archive(t, tar.Header{Typeflag: tar.TypeFifo, Name: "a.yaml"}), "which is no file"},
		"a path that leads up":  {archive(t, file("../a.yaml")), "outside of its folder"},
		"one that does later":   {archive(t, file("b/../../a.yaml")), "outside of its folder"},
		"one that goes nowhere": {archive(t, file("b/../a.yaml")), "outside of its folder"},
		"an absolute path":      {archive(t, file("/etc/a.yaml")), "outside of its folder"},
		"one of Windows":        {archive(t, file(`C:\a.yaml`)), "outside of its folder"},
		"a name with control":   {archive(t, file("a\x1b[31m.yaml")), `a name that is none: "a\x1b[31m.yaml"`},
		"a long name":           {archive(t, file(strings.Repeat("a", 256)+".yaml")), "a name that is none"},
		"another file":          {archive(t, file("run.sh")), `"run.sh", which is no manifest`},
		"a kustomization":       {archive(t, file("base/kustomization.yaml")), "is not rendered"},
		"a chart":               {archive(t, file("Chart.yaml")), "is not rendered"},
		"a file twice":          {archive(t, file("a.yaml"), file("./a.yaml")), "a.yaml twice"},
		"many files":            {archive(t, many...), "more than 1000 files"},
		"a bomb":                {archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "a.yaml", Size: maxUnpacked + 1}), "larger than 32 MiB"},
		"a bomb in parts":       {archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "a.yaml", Size: maxUnpacked}, file("b.yaml")), "larger than 32 MiB"},
		"a bomb beside":         {archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "a.yaml", Size: 2 * maxUnpacked}, file("b.yaml")), "larger than 32 MiB"},
		"a sparse file":         {sparse(t, 1<<40), "larger than 32 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			files, err := unpack(test.packed)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%d files, error %v, want %q", len(files), err, test.want)
			}
		})
	}
}

// sparse is an archive of a file that is all hole: small, and enormous when it is read.
func sparse(t *testing.T, size int64) []byte {
	t.Helper()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	records := ""
	for _, record := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=a.yaml", fmt.Sprintf("GNU.sparse.realsize=%d", size)} {
		length := len(record) + 2
		for ; len(fmt.Sprintf("%d %s\n", length, record)) != length; length++ {
		}
		records += fmt.Sprintf("%d %s\n", length, record)
	}
	block := func(name string, kind byte, content string) {
		header := make([]byte, 512)
		copy(header, name)
		copy(header[100:], "0000644\x000000000\x000000000\x00")
		copy(header[124:], fmt.Sprintf("%011o\x0000000000000\x00", len(content)))
		copy(header[148:], "        ")
		header[156] = kind
		copy(header[257:], "ustar\x0000")
		sum := 0
		for _, b := range header {
			sum += int(b)
		}
		copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
		text := append(header, content...)
		for len(text)%512 != 0 {
			text = append(text, 0)
		}
		if _, err := zipped.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	block("PaxHeaders/a.yaml", 'x', records)
	sparseMap := fmt.Sprintf("1\n%d\n0\n", size)
	block("GNUSparseFile/a.yaml", '0', sparseMap+strings.Repeat("\x00", 512-len(sparseMap)))
	if _, err := zipped.Write(make([]byte, 1024)); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func TestPackRefusesWhatUnpackWould(t *testing.T) {
	if _, err := pack([]File{{"a.yaml", make([]byte, maxUnpacked+1)}}); err == nil {
		t.Error("packed more than is unpacked")
	}
}

// FuzzUnpack: whatever an archive holds, it ends in an error or in files that lie in their folder, within bounds; those are the
// same after they are packed again.
func FuzzUnpack(f *testing.F) {
	good, err := pack([]File{{"a.yaml", []byte("kind: A\n")}, {"b/c.json", []byte("{}")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(archive(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "a.yaml", Linkname: "/etc/passwd"}))
	f.Add(archive(f, tar.Header{Typeflag: tar.TypeReg, Name: "../a.yaml", Size: 3}))
	f.Add(archive(f, tar.Header{Typeflag: tar.TypeReg, Name: "a.yaml", Size: 3, Format: tar.FormatPAX, PAXRecords: map[string]string{"a": "b"}}))
	f.Fuzz(func(t *testing.T, packed []byte) {
		files, err := unpack(packed)
		if err != nil {
			return
		}
		total := 0
		for _, file := range files {
			total += len(file.Text)
			if strings.Contains(file.Name, "..") && slices.Contains(strings.Split(file.Name, "/"), "..") || strings.HasPrefix(file.Name, "/") || len(file.Name) > maxPath {
				t.Fatalf("the name %q", file.Name)
			}
		}
		if total > maxUnpacked || len(files) > maxFiles {
			t.Fatalf("%d files of %d bytes", len(files), total)
		}
		if slices.ContainsFunc(files, func(f File) bool { return len(f.Name) > 100 }) {
			return // tar's old format has no place for it
		}
		again, err := pack(files)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unpack(again); err != nil || !cmp.Equal(files, got) {
			t.Fatalf("packed again: %v", err)
		}
	})
}
