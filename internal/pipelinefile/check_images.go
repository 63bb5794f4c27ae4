package pipelinefile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// interpolated is where GitLab inserts an input.
var interpolated = regexp.MustCompile(`\$\[\[\s*inputs\.([A-Za-z0-9_-]+)[^\]]*\]\]`)

// option gives the values of an option, in both of its forms.
func optionValues(args []field, name string) []field {
	var found []field
	for n, arg := range args {
		if len(arg.pieces) == 0 || arg.pieces[0].kind != pieceText {
			continue
		}
		rest, assigned := strings.CutPrefix(arg.pieces[0].text, name+"=")
		switch word, literal := arg.literal(); {
		case literal && word == name && n+1 < len(args):
			found = append(found, args[n+1])
		case assigned:
			found = append(found, field{pieces: mergePieces(append(value{{kind: pieceText, text: rest}}, arg.pieces[1:]...)), many: arg.many, absent: arg.absent})
		}
	}
	return found
}

// imageOptions checks the images that an option names.
func (a *analyzer) imageOptions(i invocation, names ...string) {
	for _, name := range names {
		for _, image := range optionValues(i.args, name) {
			reference, _ := bundleReference(image.pieces)
			if image.many && !image.absent || !a.endsInDigest(reference) || a.foreign(reference) != "" {
				a.tag(i, reference)
			}
		}
	}
}

// image checks one image that a command deploys.
func (a *analyzer) image(i invocation, v value) {
	if !a.endsInDigest(v) || a.foreign(v) != "" {
		a.tag(i, v)
	}
}

// tag reports an image without a digest.
func (a *analyzer) tag(i invocation, v value) {
	problem, fix := "", "give repository@sha256:…"
	switch {
	case len(v) == 1 && v[0].kind == pieceVariable:
		problem = fmt.Sprintf("it deploys $%s, which a trigger variable can set to a tag", v[0].text)
		input := "image"
		if strings.Contains(strings.ToLower(v[0].text), "bundle") {
			input = "bundle"
		}
		fix = fmt.Sprintf("assign it in the script: %s='$[[ inputs.%s ]]'", v[0].text, input)
	case len(v) == 1 && v[0].kind == pieceInput:
		problem, fix = a.imageInput(v[0])
	default:
		problem = fmt.Sprintf("it deploys %s, which has no digest", a.describe(v))
	}
	line, text := a.nodeLine(i.node), a.nodeText(i.node)
	if a.site != nil {
		text = a.site.text
	}
	use := imageUse{Line: line, Command: shorten(a.placeholders.restore(text)), Problem: problem, Fix: fix}
	if !slices.Contains(a.found.images, use) {
		a.found.images = append(a.found.images, use)
	}
}

// imageInput says why an input is no digest.
func (a *analyzer) imageInput(p piece) (problem, fix string) {
	_, indexes := a.placeholders.split(p.text)
	if len(indexes) == 0 {
		return "it deploys an input that is not known", "give repository@sha256:…"
	}
	input := a.placeholders.inputs[indexes[0]]
	if input.declared && input.input.Regex != "" && a.endsInDigest(value{p}) {
		return fmt.Sprintf("the pattern of input %q admits images of any registry", input.name), "write the registry and the folder of your images in the pattern, behind ^"
	}
	if !input.declared || input.input.Regex == "" {
		return fmt.Sprintf("it deploys the input %q, which has no pattern", input.name), "give the input a regex that ends in @sha256:[0-9a-f]{64}$"
	}
	return fmt.Sprintf("the pattern of input %q also admits images without a digest", input.name),
		"start it with ^ and end each of its alternatives with @sha256:[0-9a-f]{64}, then $"
}

// describe is a value for a message.
func (a *analyzer) describe(v value) string {
	var all strings.Builder
	for _, p := range v {
		switch p.kind {
		case pieceText:
			all.WriteString(p.text)
		case pieceInput:
			all.WriteString(a.placeholders.restore(p.text))
		case pieceVariable:
			all.WriteString("$" + p.text)
		default:
			all.WriteString("…")
		}
	}
	return all.String()
}

// kubectlImages checks what kubectl deploys.
func (a *analyzer) kubectlImages(i invocation, words []string) {
	a.imageOptions(i, "--image")
	at := slices.Index(words, "image")
	if !slices.Contains(words, "set") || at < 0 {
		return
	}
	for _, arg := range i.args[at+2:] {
		if len(arg.pieces) > 0 && arg.pieces[0].kind == pieceText && strings.HasPrefix(arg.pieces[0].text, "-") {
			continue
		}
		image, assigned := arg.pieces, false
		for n, p := range arg.pieces { // CONTAINER=IMAGE
			if _, rest, found := strings.Cut(p.text, "="); found && p.kind == pieceText {
				image, assigned = mergePieces(append(value{{kind: pieceText, text: rest}}, arg.pieces[n+1:]...)), true
				break
			}
		}
		_, constant := image.constant()
		switch {
		case arg.many && !arg.absent && !constant: // its words may be anything
			a.tag(i, image)
		case assigned:
			a.image(i, image)
		}
	}
}

// kustomizeImages checks what `kustomize edit set image` writes: NAME=IMAGE, IMAGE:TAG, IMAGE@DIGEST.
func (a *analyzer) kustomizeImages(i invocation, words []string) {
	if len(words) < 3 || words[1] != "set" || words[2] != "image" {
		return
	}
	for _, arg := range i.args[4:] {
		a.image(i, arg.pieces)
	}
}

var helmImageKey = regexp.MustCompile(`(?i)(^|[.,])[a-z0-9_\[\].-]*(image|tag|digest|version)[a-z0-9_]*$`)

// helmImages checks what `helm upgrade` sets: a key that ends in digest must have a digest, one of a tag is a tag, and
// any other about an image must be an image with a digest.
func (a *analyzer) helmImages(i invocation, words []string) {
	_ = words
	for _, name := range []string{"--set", "--set-string", "--set-literal", "--set-json"} {
		for _, v := range optionValues(i.args, name) {
			a.helmValues(i, v.pieces)
			if v.many {
				a.tag(i, v.pieces)
			}
		}
	}
	for _, v := range optionValues(i.args, "--version") {
		if text, constant := v.literal(); !constant || !regexp.MustCompile(`^v?[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`).MatchString(text) {
			a.tag(i, v.pieces)
		}
	}
}

// helmValues checks the assignments of one --set.
func (a *analyzer) helmValues(i invocation, v value) {
	for _, assignment := range splitPieces(v, ',') {
		sides := splitPieces(assignment, '=')
		if len(sides) < 2 {
			continue
		}
		key, constant := sides[0].constant()
		if !constant {
			a.image(i, value{{kind: pieceAny}})
			continue
		}
		if !helmImageKey.MatchString(key) {
			continue
		}
		lower := strings.ToLower(key)
		right := sides[1]
		for _, more := range sides[2:] {
			right = mergePieces(append(append(slices.Clone(right), piece{kind: pieceText, text: "="}), more...))
		}
		switch {
		case strings.Contains(lower, "pull") || strings.HasSuffix(lower, "repository") || strings.HasSuffix(lower, "registry"):
		case strings.HasSuffix(lower, "digest"), strings.HasSuffix(lower, "tag"): // sha256:…, also behind a tag
			if text, constant := right.constant(); constant && strings.Contains(text, "@") {
				a.image(i, right)
				break
			}
			a.image(i, mergePieces(append(value{{kind: pieceText, text: "@"}}, right...)))
		default:
			a.image(i, right)
		}
	}
}

// splitPieces splits a value at a character of its known text.
func splitPieces(v value, separator byte) []value {
	parts := []value{{}}
	for _, p := range v {
		if p.kind != pieceText {
			parts[len(parts)-1] = append(parts[len(parts)-1], p)
			continue
		}
		for n, text := range strings.Split(p.text, string(separator)) {
			if n > 0 {
				parts = append(parts, value{})
			}
			if text != "" {
				parts[len(parts)-1] = append(parts[len(parts)-1], piece{kind: pieceText, text: text})
			}
		}
	}
	return parts
}
