# The guest of the tests: a boot sector that says what it does on the serial line.
#
# It says "up ", the letter with which the second sector of its second disk begins, and a new line. Then, at each tick of the clock (18 a
# second), it writes one sector of its first disk, the n-th of n = 1, 2, 3, …, to place 2048 + 128 ((n - 1) mod 960), 128 times the number
# n, and says ".". When the power button is pressed it says "off" and powers off.
	.code16
	.globl	_start
_start:
	xorl	%eax, %eax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7000, %sp
	movl	%eax, 0x600
	movl	%eax, 0x604
	sti
	cld
	# The power button is to be told of (PM1_EN, bit 8).
	movw	$0x602, %dx
	movw	$0x100, %ax
	outw	%ax, %dx
	movw	$up, %si
	call	say
	movl	$1, packet + 8
	movb	$0x42, %ah
	movb	$0x81, %dl
	call	disk
	movb	0x9000, %al
	call	letter
	movb	$'\n', %al
	call	letter
next:
	hlt
	# PM1_STS, bit 8.
	movw	$0x600, %dx
	inw	%dx, %ax
	testb	$1, %ah
	jnz	off
	incl	0x600
	movl	0x600, %eax
	movw	$0x9000, %di
	movw	$128, %cx
	rep stosl
	movl	0x604, %eax
	movl	%eax, %ebx
	incl	%ebx
	cmpl	$960, %ebx
	jb	wrapped
	xorl	%ebx, %ebx
wrapped:
	movl	%ebx, 0x604
	shll	$7, %eax
	addl	$2048, %eax
	movl	%eax, packet + 8
	movb	$0x43, %ah
	movb	$0x80, %dl
	call	disk
	movb	$'.', %al
	call	letter
	jmp	next
off:
	movw	$down, %si
	call	say
	movw	$0x604, %dx
	movw	$0x2000, %ax
	outw	%ax, %dx
stop:
	hlt
	jmp	stop

# Reads or writes the sector in the packet. One that fails is told of.
disk:
	movw	$1, packet + 2
	movw	$packet, %si
	movb	$0, %al
	int	$0x13
	jnc	done
	movb	$'!', %al
	call	letter
done:
	ret

say:
	lodsb
	testb	%al, %al
	jz	done
	call	letter
	jmp	say

letter:
	movb	%al, %bl
	movw	$0x3fd, %dx
busy:
	inb	%dx, %al
	testb	$0x20, %al
	jz	busy
	movb	%bl, %al
	movw	$0x3f8, %dx
	outb	%al, %dx
	ret

up:	.asciz	"up "
down:	.asciz	"off"

	.balign	4
packet:
	.byte	16, 0
	.word	1
	.word	0x9000, 0
	.long	0, 0

	.org	510
	.word	0xaa55
